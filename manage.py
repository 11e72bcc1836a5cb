#!/usr/bin/env python3
from xlabml.commands.manage import main

raise SystemExit(main())
