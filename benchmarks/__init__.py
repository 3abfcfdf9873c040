"""Measures relic, pipelines and saliency; nobody imports it."""
