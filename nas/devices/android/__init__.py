"""Android phones: adb, LiteRT's benchmark_model, and which phones are connected."""
