"""The wing of training: how a step is planned, run and adapted."""
