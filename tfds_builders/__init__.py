"""TFDS builders of skeleton data sets and the command that runs them (`tfds_builders.build`)."""
