-- expect error E0201
-- at 4:1
-- says an error that is not a text
error({})
