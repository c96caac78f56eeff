-- expect error E0201
-- at 4:1
-- says near <eof>
return kernel "k" {
