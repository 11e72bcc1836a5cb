"""The console scripts (`doors`): `fit` (xlab), `infer` (xlab-infer), `manage` (xlab-manage), and what they share."""
