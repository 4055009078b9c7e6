-- For the scripts as the server gets them: python -m django_srq.operations NAME | luacheck -
-- What single includes may use, tests/operations/test_includes.py checks.
std = "lua51"
read_globals = {"redis", "KEYS", "ARGV", "cjson"}
max_line_length = false
ignore = {
  "211", -- unused: each script has the names of all keys
  "4..", -- shadowing: the parts of a script have locals of the same names
}
