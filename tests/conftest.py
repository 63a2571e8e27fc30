"""What holds for every test: kernels are interpreted where there is no GPU."""

from .interpreter import prepare

prepare()
