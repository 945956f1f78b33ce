# SPDX-License-Identifier: Apache-2.0
"""Policies written again from their specifications, to hold the engine against: README.md."""
from .anticipate import Anticipate
from .h2o import H2o
from .longflow import LongFlow
from .random import Random
from .rkv import Rkv
from .thinkv import ThinKv
from .window import Window

POLICIES = {"anticipate": Anticipate, "h2o": H2o, "longflow": LongFlow, "random": Random,
            "rkv": Rkv, "thinkv": ThinKv, "window": Window}
