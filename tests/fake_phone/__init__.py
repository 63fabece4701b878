"""A stand-in for an Android phone, behind a real adb server: `phone` speaks adbd's protocol,
`shell` answers commands.

`tests/` is on the path while pytest runs, so a test imports `fake_phone.phone`.
"""
