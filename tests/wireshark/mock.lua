-- As much of Wireshark as the dissector uses, for a Lua of any version. Every argument is checked; each line of
-- standard input is a packet in hex (for USER0, or UDP, TCP where a letter U or T stands before it), each line
-- of standard output what was said of it: errors, a tab, and the text of the column.

local function check(holds, what)
  if not holds then error("mock: " .. what, 3) end
end

local function whole(n, what)
  check(type(n) == "number" and n == math.floor(n) and n >= 0, what .. " is no whole number: " .. tostring(n))
end

local errors, registered = {}, {}

local function field(kind)
  return function(abbr, name)
    check(type(abbr) == "string" and type(name) == "string", "a field without names")
    check(not registered[abbr], "field " .. abbr .. " is there twice")
    registered[abbr] = true
    return { kind = kind, abbr = abbr }
  end
end

ProtoField = setmetatable({}, { __index = function(_, kind) return field(kind) end })
ProtoExpert = { new = function(abbr, text) return { kind = "expert", abbr = abbr, text = text } end }
base = { DEC = 1, HEX = 2, UTC = 3, NONE = 4 }
local any = setmetatable({}, { __index = function() return 1 end })
expert = { group = any, severity = any }
wtap_encaps = { USER0 = 45 }
DESEGMENT_ONE_MORE_SEGMENT = 0x0fffffff

local dissector
function Proto(name) dissector = { name = name, kind = "proto" } return dissector end
Field = { new = function() return function() return nil end end }
Dissector = { get = function() return { call = function(_, tvb) return tvb:len() end } end }
DissectorTable = { get = function() return { add = function(_, number, proto) check(number and proto, "add") end } end }

function NSTime(seconds, rest)
  whole(seconds, "seconds")
  whole(rest, "nanoseconds")
  return { kind = "time" }
end

function UInt64(low, high)
  whole(low, "low")
  whole(high, "high")
  return { kind = "number" }
end

local Range = {}
Range.__index = Range
function Range:ipv6() return "::1" end

local Tvb = {}
Tvb.__index = Tvb
function Tvb:len() return #self.bytes end
function Tvb:reported_len() return #self.bytes end
function Tvb:raw(at, size)
  if not at then return self.bytes end
  return self.bytes:sub(at + 1, at + size)
end
function Tvb:range(at, size)
  whole(at, "offset")
  whole(size, "size")
  check(at + size <= #self.bytes, "range " .. at .. " " .. size .. " of " .. #self.bytes)
  return setmetatable({ kind = "range", size = size }, Range)
end

local NUMBERS = { uint8 = 1, uint16 = 2, uint32 = 4, uint64 = 8, int8 = 1, int16 = 2, int32 = 4, int64 = 8, bool = 8 }
local Item = {}
Item.__index = Item
local looked = true -- whether somebody looks at the tree
local function item() return setmetatable({ visible = looked }, Item) end
local function add(_, what, where, value)
  check(type(what) == "table" and what.kind, "nothing to add")
  check(where ~= nil, "no place")
  if NUMBERS[what.kind] and type(where) == "table" and where.kind == "range" and value == nil then
    check(where.size <= NUMBERS[what.kind] and where.size > 0, what.abbr .. " of " .. where.size .. " bytes")
  end
  return item()
end
Item.add, Item.add_le = add, add
function Item:set_text(text)
  check(type(text) == "string" and not text:find("%z"), "text")
  local code, at = text:match("^Error: ([A-Z_]+) %(%d+%) at offset (%d+):")
  if code then errors[#errors + 1] = code .. "@" .. at end
end
Item.append_text = Item.set_text
function Item:referenced(what)
  check(type(what) == "table" and what.abbr, "no field")
  return looked
end
function Item:set_generated() end
function Item:set_hidden() end
function Item:add_proto_expert_info(what, text)
  check(type(what) == "table" and what.kind == "expert" and (text == nil or type(text) == "string"), "expert")
end

assert(loadfile(arg[1]))()

local number = 0
for line in io.lines() do
  local kind, hex = line:match("^([UT]?)(%x*)$")
  local bytes = hex:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end)
  number = number + 1
  local pinfo = {
    number = number, visited = false, cols = {}, private = {}, can_desegment = 0,
    port_type = kind == "T" and 2 or kind == "U" and 3 or 0, src = "a", dst = "b", src_port = 1, dst_port = 2,
  }
  errors = {}
  dissector.dissector(setmetatable({ bytes = bytes }, Tvb), pinfo, item())
  local first = table.concat(errors, " ")
  errors, pinfo.visited, pinfo.private, looked = {}, true, {}, false
  dissector.dissector(setmetatable({ bytes = bytes }, Tvb), pinfo, item())
  looked = true
  check(first == table.concat(errors, " "), "another pass, other errors: " .. first .. ": " .. table.concat(errors, " "))
  print(first .. "\t" .. (pinfo.cols.info or ""))
end
