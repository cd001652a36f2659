"""Alerts on the servers: are they there, do they serve what was promoted, do they keep up."""

from grafana.profile import Profile, duration
from grafana.statement import Alert, Statement, record

UNKNOWN_SHARE, UNKNOWN_ROWS = 0.01, 5  # of the rows in the short window
LIVE = 'vigil_model_info{stage="live"} == 1'


def records(profile: Profile) -> list[Statement]:
    """Return the ratios that alerts and panels share."""
    window = duration(profile.rate_s)
    refused = f"sum by (model) (rate(vigil_input_invalid_rows_total[{window}]))"
    answered = f"sum by (model) (rate(vigil_input_rows_total[{window}]))"
    lost = f'sum by (model) (rate(vigil_records_dropped_total{{reason!="duplicate_id"}}[{window}]))'
    written = f"sum by (model) (rate(vigil_records_total[{window}]))"
    used = "max by (model, instance) (vigil_inflight_rows)"
    limit = "max by (model, instance) (vigil_inflight_rows_limit)"
    return [
        record("model:input_invalid:ratio", _share(refused, answered)),
        record("model:unknown_category:ratio", _share(*_unknown(profile))),
        record("model:records_lost:ratio", _share(lost, written)),
        record("model_instance:inflight:ratio", f"{used} / ({limit} > 0)"),
        record(
            "model_reason:rejected:rate",
            f"sum by (model, reason) (rate(vigil_requests_rejected_total[{window}]))",
        ),
    ]


def alerts(profile: Profile) -> list[Alert]:
    """Return the alerts, the most urgent first."""
    return [
        *_presence(profile),
        *_releases(profile),
        *_inputs(profile),
        _new_category(profile),
        *_capacity(profile),
        _keys_refused(profile),
    ]


def _share(bad: str, good: str) -> str:
    # Either side may have no series yet: a counter with labels appears with its first event.
    return f"({bad} or 0 * {good})\n/ (({bad} or 0 * {good}) + ({good} or 0 * {bad}) > 0)"


def _presence(profile: Profile) -> list[Alert]:
    return [
        Alert(
            name="VigilAbsent",
            severity="critical",
            component="serving",
            summary="No model server is being scraped.",
            description=(
                f"For {duration(profile.urgent_s)} Prometheus has had no good scrape of any model server: "
                "perhaps nothing is served, and every other serving alert is blind."
            ),
            expr='absent(up{job="vigil"} == 1 and on (job, instance) vigil_ready)',
            for_s=profile.urgent_s,
        ),
        Alert(
            name="VigilNotReady",
            severity="critical",
            component="serving",
            summary="No model server is ready.",
            description="The servers answer scrapes, but none of them answers predictions.",
            expr='max by (job) (vigil_ready{job="vigil"}) == 0',
            for_s=profile.urgent_s,
        ),
        Alert(
            name="VigilNotReady",
            severity="warning",
            component="serving",
            summary="A model server is not ready.",
            description="{{ $labels.instance }} answers scrapes, but no predictions.",
            expr='max by (instance) (vigil_ready{job="vigil"}) == 0',
            for_s=profile.patient_s,
        ),
    ]


def _releases(profile: Profile) -> list[Alert]:
    return [_wrong_version(profile), _split(profile), _load_failing(profile), _fell_back(profile)]


def _wrong_version(profile: Profile) -> Alert:
    return Alert(
        name="VigilWrongVersionServed",
        severity="critical",
        component="model",
        summary="{{ $labels.model }} does not serve the version that was promoted.",
        description=(
            "{{ $value }} server(s) of {{ $labels.model }} should serve {{ $labels.version }} "
            f"and have not for {duration(profile.patient_s)}."
        ),
        expr=(
            "count by (model, version) (\n  vigil_model_target_info == 1\n"
            f"  unless on (instance, model, version) ({LIVE})\n)"
        ),
        for_s=profile.patient_s,
    )


def _split(profile: Profile) -> Alert:
    # A replica whose own copy of the alias is old serves what that asks for: only the others show that it is behind.
    return Alert(
        name="VigilVersionSplit",
        severity="critical",
        component="model",
        summary="The servers of {{ $labels.model }} serve different versions.",
        description=(
            f"For {duration(profile.patient_s)} {{{{ $value }}}} versions of {{{{ $labels.model }}}} have answered "
            "side by side."
        ),
        expr=f"count by (model) (\n  count by (model, version) ({LIVE})\n) > 1",
        for_s=profile.patient_s,
    )


def _load_failing(profile: Profile) -> Alert:
    return Alert(
        name="VigilModelLoadFailing",
        severity="warning",
        component="model",
        summary="A release of {{ $labels.model }} was refused or failed to load.",
        description='Reason "{{ $labels.reason }}"; whatever was live before keeps serving.',
        expr=_new_failures(profile, ""),
    )


def _fell_back(profile: Profile) -> Alert:
    # The server refuses to go live on another provider than it was asked for; other servers only warn.
    same = f'label_replace({LIVE}, "requested_provider", "$1", "provider", "(.+)")'
    other = f"({LIVE} unless on (instance, model, version, requested_provider) {same})"
    refused = _new_failures(profile, '{reason="provider"}')
    return Alert(
        name="VigilGPUFellBackToCPU",
        severity="critical",
        component="gpu",
        summary="{{ $labels.model }} does not get the device it was configured for.",
        description="ONNX Runtime did not give {{ $labels.model }} the provider that was asked for.",
        expr=f"max by (model) ({other})\nor max by (model) ({refused})",
        for_s=profile.urgent_s,
    )


def _new_failures(profile: Profile, chosen: str) -> str:
    # increase() cannot see the first event of a series that starts at 1; the second half can.
    metric = f"vigil_model_load_failures_total{chosen}"
    window = duration(profile.patient_s)
    return (
        f"sum by (model, reason) (increase({metric}[{window}])) > 0\n"
        f"or sum by (model, reason) ({metric} unless {metric} offset {window}) > 0"
    )


def _inputs(profile: Profile) -> list[Alert]:
    return [
        Alert(
            name="VigilInvalidInputs",
            severity=severity,
            component="data",
            summary="{{ $labels.model }} refuses many rows as invalid.",
            description="{{ $value | humanizePercentage }} of the rows for {{ $labels.model }} are refused.",
            expr=f"model:input_invalid:ratio > {limit}",
            for_s=for_s,
        )
        for severity, limit, for_s in (
            ("critical", 0.5, profile.urgent_s),
            ("warning", 0.05, profile.patient_s),
        )
    ]


def _unknown(profile: Profile) -> tuple[str, str]:
    # Few rows each, over an hour: too few for VigilInvalidInputs, and drift never sees what is refused.
    window, reason = duration(profile.drift.short_s), 'reason="unknown_category"'
    refused = f"sum by (model) (increase(vigil_input_invalid_rows_total{{{reason}}}[{window}]))"
    return refused, f"sum by (model) (increase(vigil_input_rows_total[{window}]))"


def _new_category(profile: Profile) -> Alert:
    return Alert(
        name="VigilUnknownCategories",
        severity="warning",
        component="data",
        summary="{{ $labels.model }} is sent values that it was not trained on.",
        description=(
            "{{ $value | humanizePercentage }} of the rows for {{ $labels.model }} are refused: a column of text holds "
            "a value that the model does not know."
        ),
        expr=f"model:unknown_category:ratio > {UNKNOWN_SHARE}\nand {_unknown(profile)[0]} >= {UNKNOWN_ROWS}",
        for_s=profile.urgent_s,
    )


def _capacity(profile: Profile) -> list[Alert]:
    return [
        Alert(
            name="VigilSaturated",
            severity="warning",
            component="serving",
            summary="A server of {{ $labels.model }} is nearly full.",
            description="{{ $labels.instance }} holds {{ $value | humanizePercentage }} of its limit.",
            expr="model_instance:inflight:ratio > 0.9",
            for_s=profile.patient_s,
        ),
        Alert(
            name="VigilRejectingRequests",
            severity="warning",
            component="serving",
            summary="{{ $labels.model }} sheds load.",
            description=('{{ printf "%.2f" $value }} requests/s of {{ $labels.model }} refused: {{ $labels.reason }}.'),
            expr='model_reason:rejected:rate{reason=~"queue_full|deadline"} > 0.1',
            for_s=profile.urgent_s,
        ),
        Alert(
            name="VigilRecordsLost",
            severity="warning",
            component="monitor",
            summary="Predictions of {{ $labels.model }} are lost before they are recorded.",
            description="{{ $value | humanizePercentage }} of the rows of {{ $labels.model }} are lost.",
            expr="model:records_lost:ratio > 0.01",
            for_s=profile.patient_s,
        ),
    ]


def _keys_refused(profile: Profile) -> Alert:
    return Alert(
        name="VigilKeyFileRefused",
        severity="warning",
        component="serving",
        summary="A server does not follow its key file.",
        description="{{ $labels.instance }} could not use the key file and goes by the keys of before.",
        expr=f"sum by (instance) (increase(vigil_key_file_failures_total[{duration(profile.patient_s)}])) > 0",
    )
