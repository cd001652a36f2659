def test_files(profile, rule_files):
    return {}
