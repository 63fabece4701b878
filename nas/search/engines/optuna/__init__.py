"""Engines that sample members by Optuna: NSGA-II and TPE."""
