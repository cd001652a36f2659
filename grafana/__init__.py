"""Dashboards, rules, alerts and runbooks, generated from Python by `grafana.build`."""
