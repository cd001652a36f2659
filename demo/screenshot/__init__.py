"""Pictures of the dashboards from a real Prometheus, without a Grafana server."""
