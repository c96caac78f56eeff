#include "schedule.h"
#include <string.h>

static const char *const dtype_names[] = {
#define DTYPE(name, text, bits) text,
#include "dtypes.def"
#undef DTYPE
};
static const int dtype_sizes[] = {
#define DTYPE(name, text, bits) bits,
#include "dtypes.def"
#undef DTYPE
};
static const char *const op_names[] = {
#define OP(id, name, options, meaning) name,
#include "ops.def"
#undef OP
};
static const char *const op_letters[] = {
#define OP(id, name, options, meaning) options,
#include "ops.def"
#undef OP
};
static const char *const role_names[] = {
#define ROLE(id, name, meaning) name,
#include "roles.def"
#undef ROLE
};

const char *dtype_name(Dtype dtype) { return dtype_names[dtype]; }
int dtype_bits(Dtype dtype) { return dtype_sizes[dtype]; }
const char *op_name(OpId op) { return op_names[op]; }
const char *op_options(OpId op) { return op_letters[op]; }
const char *role_name(Role role) { return role_names[role]; }

int op_from(const char *name) {
    for (int i = 0; i < OP_COUNT; i++)
        if (strcmp(op_names[i], name) == 0) return i;
    return -1;
}
