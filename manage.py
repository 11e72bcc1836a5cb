#!/usr/bin/env python3
from xlabml.commands.doors import manage

raise SystemExit(manage())
