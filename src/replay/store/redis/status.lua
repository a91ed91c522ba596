-- Returns the state of an event.
-- ARGV: format version, pin
local v, s, p, l, c, i = unpack(redis.call('HMGET', KEYS[1], 'v', 's', 'p', 'l', 'c', 'i'))
if not v then return {'open'} end
if v ~= ARGV[1] then return {'version', v} end
if s == 'x' then return {'forgotten'} end
if p ~= ARGV[2] then return {'mismatch'} end
if s == 'd' then return {'done', c, tostring(redis.call('PTTL', KEYS[1])), i or ''} end
if s == 'f' then return {'failed', c} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if tonumber(l) > now then return {'busy'} end
return {'open'}
