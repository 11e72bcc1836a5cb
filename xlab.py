#!/usr/bin/env python3
from xlabml.commands.doors import xlab

raise SystemExit(xlab())
