"""From a camera to labels: sources, detectors, tracking, the loop and what it decides. No torch here."""
