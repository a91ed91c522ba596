-- Forgets an event that no lease holds. The mark remains as long as the record would have.
-- ARGV: format version, lifetime in ms of the mark of an event without a record
local v, s, l = unpack(redis.call('HMGET', KEYS[1], 'v', 's', 'l'))
if v and v ~= ARGV[1] then return {'version', v} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if s == 'c' and tonumber(l) > now then return {'busy'} end
if v then
  redis.call('HDEL', KEYS[1], 'p', 't', 'l', 'u', 'c', 'i', 'n')
  redis.call('HSET', KEYS[1], 's', 'x')
else
  redis.call('HSET', KEYS[1], 'v', ARGV[1], 's', 'x')
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return {'forgotten'}
