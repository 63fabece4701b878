"""A training of the small space on few digits, as arguments of the command line."""

TRAIN = [
    "train",
    "--space",
    "small",
    "--data",
    "digits",
    "--resolution",
    "32",
    "--limit",
    "120",
    "--epochs",
    "1",
    "--batch",
    "50",
    "--score-widths",
    "1",
    "--held-out",
    "40",
    "--out",
    "t",
]
