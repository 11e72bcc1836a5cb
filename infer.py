#!/usr/bin/env python3
from xlabml.commands.infer import main

raise SystemExit(main())
