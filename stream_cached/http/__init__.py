"""The rules of HTTP: reasons, policy, headers, Cache-Status. No I/O, no clock."""
