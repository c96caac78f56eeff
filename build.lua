-- SKUs and targets: data only. Figures of a SKU are what a kernel may count on.
--   workers        SMs; on the host, workers of the executor      shared_memory  bytes a block may use (227 KB on Hopper)
--   memory         bytes that the driver reports                  bandwidth      streaming read, bytes a second
--   registers      32-bit registers of an SM                      clock          Hz under load
-- h200: measured. h100-*: NVIDIA H100 datasheet and H100 PCIe product brief. h20, gh200 (96 GB): NVIDIA's datasheets.
-- A datasheet's bandwidth is the memory's own; the h200 streams 98 % of its 4.8 TB/s.

sku "host"      { arch = "host", workers = 8 }
sku "h200"      { arch = "sm_90a", workers = 132, shared_memory = 232448, registers = 65536, memory = 150754820096,
                  l2 = 60 * 1024 * 1024, bandwidth = 4.71e12, clock = 1.98e9 }
sku "h100-sxm"  { arch = "sm_90a", workers = 132, shared_memory = 232448, registers = 65536, memory = 85520809984,
                  l2 = 50 * 1024 * 1024, bandwidth = 3.35e12, clock = 1.98e9 }
sku "h100-pcie" { arch = "sm_90a", workers = 114, shared_memory = 232448, registers = 65536, memory = 85520809984,
                  l2 = 50 * 1024 * 1024, bandwidth = 2.0e12, clock = 1.755e9 }
sku "h20"       { arch = "sm_90a", workers = 78, shared_memory = 232448, registers = 65536, memory = 102625181696,
                  l2 = 60 * 1024 * 1024, bandwidth = 4.0e12, clock = 1.98e9 }
sku "gh200"     { arch = "sm_90a", workers = 132, shared_memory = 232448, registers = 65536, memory = 102625181696,
                  l2 = 50 * 1024 * 1024, bandwidth = 4.0e12, clock = 1.98e9 }

target "demo"               { model = "models/demo.yaml", schedule = "schedules/decode.lua", sku = "host" }
target "demo/tp2"           { model = "models/demo.yaml", schedule = "schedules/decode.lua", sku = "host", tp = 2 }
target "demo/h200"          { model = "models/demo.yaml", schedule = "schedules/decode.lua", sku = "h200" }
target "demo/h100-sxm"      { model = "models/demo.yaml", schedule = "schedules/decode.lua", sku = "h100-sxm" }
target "demo/h200-tp2"      { model = "models/demo.yaml", schedule = "schedules/decode.lua", sku = "h200", tp = 2 }
target "demo/h100-sxm-tp2"  { model = "models/demo.yaml", schedule = "schedules/decode.lua", sku = "h100-sxm", tp = 2 }
target "llama-3.2-1b"       { model = "models/llama-3.2-1b.yaml", schedule = "schedules/decode.lua", sku = "host" }
target "llama-3.2-1b/h200"  { model = "models/llama-3.2-1b.yaml", schedule = "schedules/decode.lua", sku = "h200" }
target "mimo-v2.5-pro/h200-tp8"   { model = "models/mimo-v2.5-pro.yaml", schedule = "schedules/decode.lua", sku = "h200", tp = 8 }
target "mimo-v2.5-pro/h100-sxm-tp8" { model = "models/mimo-v2.5-pro.yaml", schedule = "schedules/decode.lua", sku = "h100-sxm", tp = 8 }
target "mimo-rank/h200"           { model = "models/mimo-rank.yaml", schedule = "schedules/decode.lua", sku = "h200" }
target "mimo-rank/h100-sxm"       { model = "models/mimo-rank.yaml", schedule = "schedules/decode.lua", sku = "h100-sxm" }
target "mimo-v2.6-flash/h200-tp2" { model = "models/mimo-v2.6-flash.yaml", schedule = "schedules/decode.lua", sku = "h200", tp = 2 }
target "mimo-v2.6-flash/h100-sxm-tp2" { model = "models/mimo-v2.6-flash.yaml", schedule = "schedules/decode.lua", sku = "h100-sxm", tp = 2 }
target "mimo-half/h200-tp2"       { model = "models/mimo-half.yaml", schedule = "schedules/decode.lua", sku = "h200", tp = 2 }
target "mimo-half/h100-sxm-tp2"   { model = "models/mimo-half.yaml", schedule = "schedules/decode.lua", sku = "h100-sxm", tp = 2 }
