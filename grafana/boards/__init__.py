"""The dashboards, as plain values: views of queries, laid out and spelled as Grafana reads them."""
