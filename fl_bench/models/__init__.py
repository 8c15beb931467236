"""Models by name: functions `f(shape, num_classes, **keys of the yaml) -> nn.Module`, see docs/models.md."""
