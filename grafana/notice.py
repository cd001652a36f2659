"""The text of a notification: what is wrong with which model, what a rollback goes back to, and the command for it.

A Go template for Alertmanager. A webhook gets all of it as labels and annotations; chats and mail get the text.
"""

TEMPLATE = """\
{{/* Written by `python grafana/build.py` from grafana/notice.py. */}}
{{ define "vigil.title" -}}
[{{ if eq .Status "resolved" }}over{{ else if eq .CommonLabels.severity "critical" }}page{{ else }}\
{{ with .CommonLabels.severity }}{{ . }}{{ else }}alert{{ end }}{{ end }}] \
{{ .CommonLabels.alertname }}{{ with .CommonLabels.model }} of {{ . }}{{ end }}
{{- end }}

{{ define "vigil.alert" -}}
{{ .Annotations.summary }}
{{ .Annotations.description }}
{{- with .Annotations.live }}
Live: {{ . }}
{{- end }}
{{- with .Annotations.previous }}
Before: {{ . }}
{{- end }}
{{- with .Annotations.rollback }}
To go back: {{ . }}
{{- end }}
Since: {{ .StartsAt.UTC.Format "2006-01-02 15:04:05 UTC" }}{{ if eq .Status "resolved" }}, \
over since {{ .EndsAt.UTC.Format "15:04:05 UTC" }}{{ end }}
Runbook: {{ .Annotations.runbook_url }}
Dashboard: {{ .Annotations.dashboard_url }}
{{- with .Annotations.reports_url }}
Reports: {{ . }}
{{- end }}
{{- end }}

{{ define "vigil.text" -}}
{{ range $i, $alert := .Alerts }}{{ if $i }}

{{ end }}{{ template "vigil.alert" $alert }}{{ end }}
{{- end }}
"""
