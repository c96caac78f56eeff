# tilegen and tilerun. `make` builds the two programs; `make demo` and `make test` do all the set-up that is missing first.
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := all
PREFIX ?= /usr/local
B := build$(if $(SANITIZER),/$(SANITIZER))

CC := gcc
CFLAGS := -O2 -ftree-vectorize -g
ifdef SANITIZER
CFLAGS := -O1 -g -fsanitize=$(SANITIZER) -fno-omit-frame-pointer -Wno-format-truncation
endif
# -ffp-contract=off: a row's arithmetic must not depend on how a loop was vectorised.
ALL_CFLAGS := -std=c11 -D_GNU_SOURCE -ffp-contract=off -pthread -MMD -MP \
  -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Werror -Wno-psabi \
  -Itilegen -Itilegen/base -Iruntime -isystem /usr/include/lua5.4 $(CFLAGS)
# Static against the libraries, dynamic against libc alone: the programs run on any newer Linux.
LIBS := -Wl,-Bstatic -llua5.4 -lyaml -ljansson -lpcre2-8 -lutf8proc -Wl,-Bdynamic -lm -ldl -pthread

GEN_SRC := $(wildcard tilegen/base/*.c) $(filter-out tilegen/main.c,$(wildcard tilegen/*.c))
RUN_SRC := $(filter-out runtime/main.c,$(wildcard runtime/*.c))
GEN_OBJ := $(GEN_SRC:%.c=$(B)/obj/%.o)
RUN_OBJ := $(RUN_SRC:%.c=$(B)/obj/%.o)
TESTS := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/test_*.c))
FUZZERS := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))

.PHONY: all demo test setup cuda install fmt clean tests fuzzers update-golden
all: $(B)/tilegen $(B)/tilerun

$(B)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c $< -o $@

$(B)/libtilegen.a: $(GEN_OBJ)
	@rm -f $@
	ar rcs $@ $^
$(B)/libtilerun.a: $(RUN_OBJ)
	@rm -f $@
	ar rcs $@ $^
# libtilegen knows nothing of running; the program does, for `tilegen diff`.
$(B)/tilegen: $(B)/obj/tilegen/main.o $(B)/libtilerun.a $(B)/libtilegen.a
	$(CC) $(ALL_CFLAGS) $^ $(LIBS) -o $@
$(B)/tilerun: $(B)/obj/runtime/main.o $(B)/libtilerun.a $(B)/libtilegen.a
	$(CC) $(ALL_CFLAGS) $^ $(LIBS) -o $@

# A test is one program; it prints TAP lines (see tests/check.h).
$(B)/tests/%: tests/%.c tests/check.h $(B)/libtilerun.a $(B)/libtilegen.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -Itests $(filter %.c,$^) $(B)/libtilerun.a $(B)/libtilegen.a $(LIBS) -o $@
$(B)/tests/test_mutants: tests/interleaver.c tests/machine.c tests/small_progs.c
$(B)/tests/test_alloc: LIBS += -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc
# A driver without a GPU, for the tests that want one.
$(B)/tests/libfakecuda.so: tests/fake_cuda.c tests/fake_cuda.h runtime/cuda.h runtime/cuda_api.def runtime/allreduce_sums.c templates/allreduce.h
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -Itests -shared -fPIC $< -o $@
$(B)/tests/libfakenccl.so: tests/fake_nccl.c runtime/nccl.h runtime/nccl_api.def
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -Itests -shared -fPIC $< -o $@
$(B)/tests/test_gpu_engine $(B)/tests/test_gpu_graph $(B)/tests/test_bench $(B)/tests/test_allreduce $(B)/tests/test_ranks: $(B)/tests/libfakecuda.so
$(B)/tests/test_allreduce $(B)/tests/test_ranks: $(B)/tests/libfakenccl.so
tests: $(TESTS)

# libFuzzer targets, with clang; `make test` replays their corpus through tests/fuzz/replay.c instead.
$(B)/fuzz/%: tests/fuzz/%.c $(GEN_SRC) $(RUN_SRC)
	@mkdir -p $(@D)
	clang -std=c11 -D_GNU_SOURCE -ffp-contract=off -O1 -g -fsanitize=fuzzer,address,undefined -w -pthread \
	  -Itilegen -Itilegen/base -Iruntime -isystem /usr/include/lua5.4 $< $(GEN_SRC) $(RUN_SRC) $(LIBS) -o $@
$(B)/replay/%: tests/fuzz/%.c tests/fuzz/replay.c $(B)/libtilerun.a $(B)/libtilegen.a
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -Wno-missing-prototypes $< tests/fuzz/replay.c $(B)/libtilerun.a $(B)/libtilegen.a $(LIBS) -o $@
fuzzers: $(FUZZERS)

setup:
	@tests/setup.sh

# The CUDA compiler without the toolkit. tilegen looks there by itself.
cuda:
	@tests/cuda.sh build/cuda

test: setup
	@+$(MAKE) --no-print-directory run-tests
.PHONY: run-tests
run-tests: all tests $(patsubst tests/fuzz/%.c,$(B)/replay/%,$(wildcard tests/fuzz/fuzz_*.c))
	@tests/run.sh $(B)

update-golden: all tests
	UPDATE_GOLDEN=1 tests/run.sh $(B)

demo: setup
	@+$(MAKE) --no-print-directory all
	@models/demo/demo.sh $(B)

install: all
	install -D -m 755 $(B)/tilegen $(DESTDIR)$(PREFIX)/bin/tilegen
	install -D -m 755 $(B)/tilerun $(DESTDIR)$(PREFIX)/bin/tilerun
	install -d $(DESTDIR)$(PREFIX)/share/tilegen
	cp -r build.lua schedules templates models $(DESTDIR)$(PREFIX)/share/tilegen/

fmt:
	clang-format -i $$(git ls-files '*.c' '*.h' '*.cuh')

clean:
	rm -rf build

-include $(shell find $(B) -name '*.d' 2>/dev/null)
