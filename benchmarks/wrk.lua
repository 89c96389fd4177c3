-- Sends the requests of a file (each after a line with its length) in turn; a placeholder becomes a new traceparent.
local placeholder = string.rep("@", 55)
local requests, turn, plain = {}, 0, true

local function read_requests(path)
  local file = assert(io.open(path, "rb"))
  while true do
    local length = file:read("*l")
    if length == nil then break end
    local request = file:read(tonumber(length))
    local first, last = request:find(placeholder, 1, true)
    if first then
      plain = false
      requests[#requests + 1] = { request:sub(1, first - 1), request:sub(last + 1) }
    else
      requests[#requests + 1] = { request, "" }
    end
  end
  file:close()
end

function init(arguments)
  math.randomseed(os.time() + math.floor(os.clock() * 1e6))
  read_requests(arguments[1])
end

local function word()
  return string.format("%04x%04x", math.random(0, 65535), math.random(0, 65535))
end

function request()
  if plain and #requests == 1 then return requests[1][1] end
  turn = turn % #requests + 1
  local parts = requests[turn]
  if plain then return parts[1] end
  return table.concat({
    parts[1], "00-", word(), word(), word(), word(), "-", word(), word(), "-01", parts[2],
  })
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "errors": %d, "seconds": %f, "requests_per_second": %f, '
      .. '"p50_ms": %f, "p99_ms": %f, "p999_ms": %f, "max_ms": %f}\n',
    summary.requests, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    summary.duration / 1e6, summary.requests / (summary.duration / 1e6),
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3, latency.max / 1e3))
end
