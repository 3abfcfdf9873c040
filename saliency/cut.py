"""Cut the object out of an image along its colours and edges, given roughly where it is.

GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004), in OpenCV's implementation, started from a saliency map instead of
a user's box.
"""

from __future__ import annotations

import cv2
import numpy as np

SURE_OBJECT, SURE_BACKGROUND = 0.98, 0.15  # quantiles of the map beyond which the cut may not change a pixel


def cut(rgb: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Return the object's mask.

    Args:
        rgb: uint8 [h, w, 3].
        saliency: float32 [h, w] in [0, 1], where the object lies above 0.5.

    Returns:
        float32 [h, w], 0 or 1; where one of the two sides is empty, what lies above 0.5.
    """
    above = saliency > 0.5
    trimap = np.where(above, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    trimap[saliency > np.quantile(saliency, SURE_OBJECT)] = cv2.GC_FGD
    trimap[saliency < np.quantile(saliency, SURE_BACKGROUND)] = cv2.GC_BGD
    is_object = (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)
    if is_object.all() or not is_object.any():
        return above.astype(np.float32)
    cv2.setRNGSeed(0)  # its k-means draws: the same image gives the same mask
    cv2.grabCut(rgb, trimap, None, np.zeros((1, 65)), np.zeros((1, 65)), 1, cv2.GC_INIT_WITH_MASK)
    return ((trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)).astype(np.float32)
