"""The training loop that supernets and found networks share; a `Task` says what is trained."""
