"""Figures with their uncertainty: quality, latency, cold start and memory, and the machine they were taken on."""

from __future__ import annotations

from edgewise.measure.accuracy import difference, quality, wilson
from edgewise.measure.latency import Subject, measure
from edgewise.measure.machine import describe
from edgewise.measure.memory import Probe, probe

__all__ = ["Probe", "Subject", "describe", "difference", "measure", "probe", "quality", "wilson"]
