import hypothesis

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile(
    "unit", max_examples=50, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unit")
