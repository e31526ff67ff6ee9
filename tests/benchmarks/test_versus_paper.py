from benchmarks.versus.settings import Settings

TINY = Settings(n=256, paper_m=4096, measured_m=1024, digits=2, other_digits=1, fast=((200, 300), (256, 1024)))
