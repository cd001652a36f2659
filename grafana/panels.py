def oncall(profile): return {}
