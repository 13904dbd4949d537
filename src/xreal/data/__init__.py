"""Data: the contract of shapes, sources, preparation, augmentation, and a procedural chest."""
