-- expect error E0203
-- at 5:1
-- says does not end
::again::
goto again
