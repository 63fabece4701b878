"""The functions that `nas.integrations.timm.register` gives to timm, which lists them by module."""

__all__: list[str] = []
