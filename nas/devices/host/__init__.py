"""The computer itself: LiteRT on its cores."""
