"""Many runs as one: sweeps whose cells run side by side, and what their runs say together."""
