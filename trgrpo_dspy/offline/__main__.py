"""`python -m trgrpo_dspy.offline serve`: the offline model as an OpenAI-compatible endpoint on loopback."""

from .server import main

main()
