#!/usr/bin/env python3
from xlabml.commands.doors import infer

raise SystemExit(infer())
