"""The operations on a view in plain torch: the specification that `pipelines.engine` is held to.

They take float32 [..., 3, H, W] in [0, 1].
"""
