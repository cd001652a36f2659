"""The drift and quality dashboard: what moved, what was refused; `grafana.boards.truth` has what labels say."""

from grafana.boards import truth, watching
from grafana.boards.board import Board, servers_and_models, variable
from grafana.boards.views import BOTH, GREEN, MODEL, ORANGE, RED, REPORT, WINDOW, View

RELEASE = "model, version"
SIGNAL = "model, version, signal"
CHOSEN = f'signal=~"$signal",{MODEL}'
OF = "{{model}} {{signal}}"


def drift() -> Board:
    """Return the dashboard."""
    rows = {
        "Has the traffic moved?": _moved(),
        "Is it the traffic, or a broken value?": _causes(),
        "What was refused": _refused(),
        "What the labels say": truth.labelled(),
        "What is estimated without labels": truth.estimated(),
        "What the monitor and the log do": watching.watching(),
    }
    signals = variable("signal", "Signal", "label_values(model_signal:drift_z, signal)")
    return Board("vigil-drift", "Vigil / Drift and quality", rows, (*servers_and_models(), signals))


def _over(what: str, limit: str, window: str, on: str) -> str:
    return (
        f'max by ({SIGNAL}) (model_signal:{what}{{window="{window}",{CHOSEN}}}) / on ({on}) group_left () '
        f"max by ({on}) ({limit})"
    )


def _moved() -> tuple[View, ...]:
    return (*_both_keys(), *_both_at_once(), *(_z(window) for window in ("short", "medium", "long")))


def _both_keys() -> tuple[View, ...]:
    restless = f'model_signal:drift_limit_restless{{window="short",{CHOSEN}}}'
    floor = f"vigil_drift_psi_threshold{{{MODEL}}}"
    return (
        _nearest(
            "How sure: z over its limit",
            "The twenty signals nearest to or over their limit, short window. Over 1 it moved for sure; a ticket needs "
            "the next table over 1, too.",
            _over("drift_z", restless, "short", SIGNAL),
        ),
        _nearest(
            "How much: PSI over its limit",
            "Size of the shift, short window; it does not grow with the rows. Over 1 it is worth telling.",
            _over("drift_psi", floor, "short", RELEASE),
        ),
    )


def _nearest(title: str, description: str, ratio: str) -> View:
    return View(
        title,
        description,
        "none",
        ((f"sort_desc(topk(20, {ratio}))", ""),),
        kind="table",
        width=12,
        height=9,
        steps=((GREEN, None), (RED, 1.0)),
        none="not judged yet",
        links=(REPORT,),
        value="times the limit",
        cells="times the limit",
    )


def _both_at_once() -> tuple[View, ...]:
    rows = f"max by ({RELEASE}, window) (model_signal:drift_rows{{{MODEL}}})"
    return (
        View(
            "Both: signals that moved",
            "Signals over both limits with rows enough, by window: what the ticket names.",
            "none",
            ((f"model_signal:drifted_z{{{CHOSEN}}}", OF + " {{window}}"),),
            width=12,
            height=9,
            none="nothing moved",
            links=(REPORT,),
        ),
        View(
            "Rows judged",
            "Rows in each window; below the dashed line nothing is judged.",
            "short",
            (
                (rows, "{{model}} {{window}}"),
                (f"max by ({RELEASE}) (vigil_drift_min_rows{{{MODEL}}})", "{{model}} fewest"),
            ),
            width=12,
            height=9,
            dashed=".*fewest",
            none="not judged yet",
        ),
    )


def _z(window: str) -> View:
    chosen = f'window="{window}",{CHOSEN}'
    return View(
        f"z, {window} window",
        f"Distance of the ten most unlike signals from the reference, {window} window; dashed is the lowest limit.",
        "none",
        (
            (f"topk(10, model_signal:drift_z{{{chosen}}})", OF),
            (f"min by ({RELEASE}) (model_signal:drift_limit_restless{{{chosen}}})", "{{model}} limit"),
        ),
        width=8,
        dashed=".*limit",
        none="not judged yet",
        links=(REPORT,),
    )


def _causes() -> tuple[View, ...]:
    outside = f'max by ({SIGNAL}) (model_signal:outside_share{{window="short",{CHOSEN}}})'
    usual = f"max by ({SIGNAL}) (vigil_reference_outside_share{{{CHOSEN}}})"
    return (
        View(
            "Outside the range",
            "Rows with values that a signal had never, less their share in the reference: broken values, other units. "
            "From 1 % on it is a finding of its own.",
            "percentunit",
            ((f"topk(10, {outside} - {usual})", OF),),
            width=8,
            steps=((GREEN, None), (RED, 0.01)),
            none="no signal has a range",
            links=(REPORT,),
        ),
        View(
            "Restless traffic",
            "How unlike one another the hours of the last days are, by signal: restless traffic raises its own limit.",
            "none",
            ((f"topk(10, max by ({SIGNAL}) (model_signal:unrest_level{{{CHOSEN}}}))", OF),),
            width=8,
            none="no pairs of windows yet",
        ),
        View(
            "Embedding",
            "Gap of the ten components of the model's last layer that moved most: what no single column shows.",
            "none",
            (
                (
                    f'topk(10, abs(model_component:embedding_gap{{window="short",{MODEL}}}))',
                    "{{model}} {{component}}",
                ),
            ),
            width=8,
            none="no embedding",
        ),
    )


def _refused() -> tuple[View, ...]:
    refused = f"vigil_input_invalid_rows_total{{{BOTH}}}"
    return (
        View(
            "Rows refused by reason",
            "Rows per second that did not fit the model's input; the reply named field and row.",
            "short",
            ((f"sum by (model, reason) (rate({refused}[{WINDOW}]))", "{{model}} {{reason}}"),),
            width=8,
            stack=True,
            none="none",
        ),
        View(
            "Share refused",
            "Of all rows that arrived; 5 % is a ticket, 50 % pages.",
            "percentunit",
            ((f"model:input_invalid:ratio{{{MODEL}}}", "{{model}}"),),
            width=8,
            steps=((GREEN, None), (ORANGE, 0.05), (RED, 0.5)),
            none="no rows",
        ),
        View(
            "Unknown categories",
            "Share of the rows refused for a value that the model does not know: a new product, a new spelling.",
            "percentunit",
            ((f"model:unknown_category:ratio{{{MODEL}}}", "{{model}}"),),
            width=8,
            steps=((GREEN, None), (RED, 0.01)),
            none="no rows",
        ),
    )
