"""Images to label-free saliency masks and background plates. Knows no training of ReLIC."""
