#!/usr/bin/env python3
from xlabml.commands.fit import main

raise SystemExit(main())
