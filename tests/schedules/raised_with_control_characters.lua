-- expect error E0201
-- at 4:1
-- says a [31mb
error("a\27[31mb\0c")
