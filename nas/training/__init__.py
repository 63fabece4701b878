"""The training loop that supernets and found networks share; a `Task` defines what is trained."""
