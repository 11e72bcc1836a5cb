"""The console scripts: `fit` (xlab), `infer` (xlab-infer), `manage` (xlab-manage), and what they share."""
