#!/usr/bin/env python3
from xlabml.commands.doors import xlab

if __name__ == '__main__':  # processes that are started anew import this file
    raise SystemExit(xlab())
