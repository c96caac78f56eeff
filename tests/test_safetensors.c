// Safetensors: what is written reads back, and every kind of damage is told by its code and by name.
#include "damage.h"
#include "safetensors.h"
#include <fcntl.h>
#include <unistd.h>

// A file of `header` and `data` zero bytes.
static const char *file_of(const char *header, size_t data) {
    size_t length = strlen(header);
    uint8_t *all = arena_alloc(ctx->arena, 8 + length + data);
    for (int i = 0; i < 8; i++) all[i] = (uint8_t)((uint64_t)length >> (8 * i));
    memcpy(all + 8, header, length);
    return temp_file("x.safetensors", all, 8 + length + data);
}

static void refused(const char *header, size_t data, DiagCode code, const char *part) {
    FRESH();
    CHECK(!safetensors_open(ctx, file_of(header, data)));
    CHECK_ERROR(code, part);
}

#define TENSOR(name, dtype, shape, from, to)                                                                           \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" #from "," #to "]}"

static void written_tensors_read_back(void) {
    FRESH();
    const char *path = temp_path("w.safetensors");
    float a[6] = {1, 2, 3, 4, 5, 6};
    uint8_t b[3] = {7, 8, 9};
    TensorOut out[] = {{"z.weight", "F32", 2, {2, 3}, a, sizeof a},
                       {"a \"quoted\" \xC3\xA9", "U8", 1, {3}, b, sizeof b},
                       {"empty", "BF16", 2, {0, 4}, NULL, 0},
                       {"scalar", "F32", 0, {0}, a, 4}};
    CHECK(safetensors_write(ctx, path, out, 4));
    Safetensors *file = safetensors_open(ctx, path);
    CHECK_SILENT();
    CHECK(file);
    size_t count;
    const Tensor *tensors = safetensors_tensors(file, &count);
    CHECK(count == 4);
    for (size_t i = 1; i < count; i++) CHECK(strcmp(tensors[i - 1].name, tensors[i].name) < 0, "sorted");
    for (size_t i = 0; i < 4; i++) {
        const Tensor *t = safetensors_find(file, out[i].name);
        CHECK(t && t->rank == out[i].rank && t->bytes == out[i].bytes, "%s", out[i].name);
        CHECK_TEXT(t->dtype, out[i].dtype);
        CHECK(memcmp(t->shape, out[i].shape, sizeof(int64_t) * (size_t)t->rank) == 0);
        CHECK(t->bytes == 0 || memcmp(t->data, out[i].data, t->bytes) == 0);
    }
    CHECK(!safetensors_find(file, "no such"));
    safetensors_close(file);
}

// Offsets count, not the order of the header; metadata and padding are allowed.
static void order_of_the_header_is_free(void) {
    FRESH();
    const char *header =
        "{\"__metadata__\":{\"format\":\"pt\"}," TENSOR("a", "U8", "2", 3, 5) "," TENSOR("b", "U8", "3", 0, 3) "}    ";
    Safetensors *file = safetensors_open(ctx, file_of(header, 5));
    CHECK_SILENT();
    CHECK(file);
    const Tensor *a = safetensors_find(file, "a"), *b = safetensors_find(file, "b");
    CHECK(a && b && a->data - b->data == 3 && a->bytes == 2);
    safetensors_close(file);
}

static void no_file(void) {
    FRESH();
    CHECK(!safetensors_open(ctx, temp_path("none.safetensors")));
    CHECK_ERROR(E0002, "none.safetensors");
}
static void a_folder(void) {
    FRESH();
    CHECK(!safetensors_open(ctx, temp_path("")));
    CHECK_ERROR(E0002, "not a regular file");
}
static void an_empty_file(void) {
    FRESH();
    CHECK(!safetensors_open(ctx, temp_text("x.safetensors", "")));
    CHECK_ERROR(E0701, "too few");
}
static void seven_bytes(void) {
    FRESH();
    CHECK(!safetensors_open(ctx, temp_text("x.safetensors", "1234567")));
    CHECK_ERROR(E0701, "too few");
}
static void header_longer_than_the_file(void) {
    FRESH();
    CHECK(!safetensors_open(ctx, temp_file("x.safetensors", "\x40\0\0\0\0\0\0\0{}", 10)));
    CHECK_ERROR(E0701, "a header of 64 bytes in a file of 10");
}
static void header_length_that_overflows(void) {
    FRESH();
    CHECK(!safetensors_open(ctx, temp_file("x.safetensors", "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10)));
    CHECK_ERROR(E0701, "the format allows");
}
static void header_over_the_cap(void) {
    FRESH();
    // A sparse file that is long enough for such a header.
    const char *path = temp_path("x.safetensors");
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0666);
    CHECK(fd >= 0 && ftruncate(fd, 200000000) == 0);
    CHECK(pwrite(fd, "\x01\xE1\xF5\x05\0\0\0\0{}", 10, 0) == 10); // 100000001
    close(fd);
    CHECK(!safetensors_open(ctx, path));
    CHECK_ERROR(E0701, "a header of 100000001 bytes");
}
static void header_that_is_no_object(void) { refused("[1, 2]", 0, E0701, "does not begin with '{'"); }
static void header_that_begins_with_a_space(void) { refused(" {}", 0, E0701, "does not begin with '{'"); }
static void header_cut_in_json(void) { refused("{\"a\":", 0, E0701, "x.safetensors:1:5:"); }
static void header_with_bad_utf8(void) { refused("{\"\xC3\x28\":{}}", 0, E0701, "unable to decode byte 0xc3"); }
static void header_with_text_after_it(void) { refused("{} x", 0, E0701, "end of file expected"); }
static void header_nested_too_deeply(void) {
    char deep[6000] = "{\"a\":";
    memset(deep + 5, '[', 5000);
    refused(deep, 0, E0701, "maximum parsing depth");
}
static void tensor_twice(void) {
    refused("{" TENSOR("a", "U8", "1", 0, 1) "," TENSOR("a", "U8", "1", 1, 2) "}", 2, E0711, "duplicate object key");
}
static void entry_that_is_no_object(void) { refused("{\"a\":3}", 0, E0712, "\"a\": its entry is not an object"); }
static void entry_without_dtype(void) {
    refused("{\"a\":{\"shape\":[],\"data_offsets\":[0,4]}}", 4, E0712, "\"dtype\"");
}
static void entry_without_shape(void) {
    refused("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,4]}}", 4, E0712, "\"shape\"");
}
static void entry_without_offsets(void) {
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", 4, E0712, "data_offsets");
}
static void entry_with_another_key(void) {
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4],\"x\":1}}", 4, E0712, "a key besides");
}
static void three_offsets(void) {
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4,8]}}", 4, E0712, "two numbers");
}
static void offsets_that_fall(void) { refused("{" TENSOR("a", "U8", "1", 1, 0) "}", 1, E0712, "rising"); }
static void negative_offset(void) { refused("{" TENSOR("a", "U8", "1", -1, 0) "}", 1, E0712, "rising"); }
static void offset_that_is_real(void) { refused("{" TENSOR("a", "U8", "1", 0, 1.0) "}", 1, E0712, "rising"); }
static void negative_dimension(void) { refused("{" TENSOR("a", "U8", "-1", 0, 1) "}", 1, E0712, "dimension"); }
static void dimension_that_is_real(void) { refused("{" TENSOR("a", "U8", "1.0", 0, 1) "}", 1, E0712, "dimension"); }
static void five_dimensions(void) {
    refused("{" TENSOR("a", "U8", "1,1,1,1,1", 0, 1) "}", 1, E0712, "four dimensions");
}
static void metadata_that_is_a_list(void) { refused("{\"__metadata__\":[]}", 0, E0712, "__metadata__"); }
static void metadata_of_numbers(void) { refused("{\"__metadata__\":{\"a\":1}}", 0, E0712, "__metadata__"); }
static void dtype_unknown(void) { refused("{" TENSOR("a", "F8", "1", 0, 1) "}", 1, E0713, "unknown dtype \"F8\""); }
static void bytes_too_few_for_the_shape(void) { refused("{" TENSOR("a", "F32", "2", 0, 4) "}", 4, E0714, "\"a\""); }
static void shape_that_overflows(void) {
    refused("{" TENSOR("a", "U8", "4294967296,4294967296,16", 0, 0) "}", 0, E0714, "\"a\"");
}
static void shape_that_overflows_by_its_dtype(void) {
    refused("{" TENSOR("a", "F64", "2305843009213693952", 0, 0) "}", 0, E0714, "\"a\"");
}
static void half_a_byte(void) { refused("{" TENSOR("a", "F4", "3", 0, 1) "}", 1, E0714, "\"a\""); }
static void tensor_past_the_end(void) {
    refused("{" TENSOR("a", "U8", "8", 0, 8) "}", 7, E0701, "\"a\" ends at byte 8 of the data, which has 7");
}
static void tensors_that_overlap(void) {
    refused("{" TENSOR("a", "U8", "4", 0, 4) "," TENSOR("b", "U8", "4", 2, 6) "}", 6, E0716, "\"a\" and \"b\"");
}
static void two_tensors_of_the_same_bytes(void) {
    refused("{" TENSOR("a", "U8", "4", 0, 4) "," TENSOR("b", "U8", "4", 0, 4) "}", 4, E0716, "overlap");
}
static void hole_between_tensors(void) {
    refused("{" TENSOR("a", "U8", "2", 0, 2) "," TENSOR("b", "U8", "2", 3, 5) "}", 5, E0717,
            "1 bytes before tensor \"b\"");
}
static void hole_at_the_beginning(void) {
    refused("{" TENSOR("a", "U8", "2", 1, 3) "}", 3, E0717, "before tensor \"a\"");
}
static void bytes_at_the_end(void) { refused("{" TENSOR("a", "U8", "2", 0, 2) "}", 5, E0717, "the last 3 bytes"); }

static void names_are_shown_without_control_characters(void) { refused("{\"a\\u001b[2J\":3}", 0, E0712, "\"a?[2J\""); }

static void writing_into_no_folder_leaves_nothing(void) {
    FRESH();
    CHECK(!safetensors_write(ctx, temp_path("no/such/x.safetensors"), NULL, 0));
    CHECK_ERROR(E0004, "cannot write");
}
static void writing_a_tensor_of_a_wrong_size(void) {
    FRESH();
    TensorOut out = {"a", "F32", 1, {3}, "1234", 4};
    const char *path = temp_path("never.safetensors");
    CHECK(!safetensors_write(ctx, path, &out, 1));
    CHECK_ERROR(E0714, "\"a\"");
    CHECK(access(path, F_OK) != 0);
}

// Any damage to a good file is refused or gives tensors that lie inside the file.
static void random_damage_is_safe(void) {
    uint64_t state = 11;
    const char *header = "{\"__metadata__\":{\"k\":\"v\"}," TENSOR("a", "F32", "2,3", 0, 24) "," TENSOR(
        "b", "BF16", "4", 24, 32) "," TENSOR("c", "U8", "", 32, 33) "}";
    size_t length = strlen(header), total = 8 + length + 33, refusals = 0;
    for (int i = 0; i < 20000; i++) {
        FRESH();
        uint8_t *all = arena_alloc(ctx->arena, total);
        all[0] = (uint8_t)length;
        memcpy(all + 8, header, length);
        for (uint64_t n = check_random(&state) % 3 + 1; n; n--)
            all[check_random(&state) % (8 + length)] = (uint8_t)check_random(&state);
        size_t size = check_random(&state) % 8 ? total : check_random(&state) % total, count;
        Tensor *tensors;
        if (!safetensors_parse(ctx, file_span(ctx, "x"), all, size, size, all, &tensors, &count)) {
            CHECK(diag_errors(ctx) > 0);
            refusals++;
            continue;
        }
        for (size_t t = 0; t < count; t++)
            CHECK(tensors[t].data >= all && tensors[t].data + tensors[t].bytes <= all + size, "round %d", i);
    }
    CHECK(refusals > 10000);
}

int main(void) {
    RUN(written_tensors_read_back);
    RUN(order_of_the_header_is_free);
    RUN(no_file);
    RUN(a_folder);
    RUN(an_empty_file);
    RUN(seven_bytes);
    RUN(header_longer_than_the_file);
    RUN(header_length_that_overflows);
    RUN(header_over_the_cap);
    RUN(header_that_is_no_object);
    RUN(header_that_begins_with_a_space);
    RUN(header_cut_in_json);
    RUN(header_with_bad_utf8);
    RUN(header_with_text_after_it);
    RUN(header_nested_too_deeply);
    RUN(tensor_twice);
    RUN(entry_that_is_no_object);
    RUN(entry_without_dtype);
    RUN(entry_without_shape);
    RUN(entry_without_offsets);
    RUN(entry_with_another_key);
    RUN(three_offsets);
    RUN(offsets_that_fall);
    RUN(negative_offset);
    RUN(offset_that_is_real);
    RUN(negative_dimension);
    RUN(dimension_that_is_real);
    RUN(five_dimensions);
    RUN(metadata_that_is_a_list);
    RUN(metadata_of_numbers);
    RUN(dtype_unknown);
    RUN(bytes_too_few_for_the_shape);
    RUN(shape_that_overflows);
    RUN(shape_that_overflows_by_its_dtype);
    RUN(half_a_byte);
    RUN(tensor_past_the_end);
    RUN(tensors_that_overlap);
    RUN(two_tensors_of_the_same_bytes);
    RUN(hole_between_tensors);
    RUN(hole_at_the_beginning);
    RUN(bytes_at_the_end);
    RUN(names_are_shown_without_control_characters);
    RUN(writing_into_no_folder_leaves_nothing);
    RUN(writing_a_tensor_of_a_wrong_size);
    RUN(random_damage_is_safe);
    ctx_free(ctx);
    return check_done();
}
