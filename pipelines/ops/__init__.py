"""The operations on a view, each with a reference (plain torch, the specification) and a fused face (numba, OpenCV).

Reference faces work on float32 [3, H, W] in [0, 1]. Fused faces work in place on float32 [H, W, 3] in [0, 255].
"""
